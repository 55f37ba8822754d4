"""The script that every launcher runs on every process of `megachar selftest`.

    torchrun --nproc_per_node 4 launcher/selftest.py small parallel.pipe=2 parallel.data=2

The first argument is a preset or a YAML file, the others are overrides. Rank 0 prints the report.
"""
