"""`megachar corpus prepare` by its old name: the same options, also under mpirun.

python tools/preprocess_data.py enwik8 --output data/enwik8
mpirun -n 64 python tools/preprocess_data.py pile/*.jsonl.zst --json-key text --mpi --output data/pile
"""

import sys

if __name__ == "__main__":
    from megachar.cli import main  # here, because worker processes import this file too

    sys.argv[1:1] = ["corpus", "prepare"]
    main()
