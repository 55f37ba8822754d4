#!/usr/bin/env bash
# From a bare machine with Python to a trained deep character model in one command: installs, prepares the text of
# Python's own documentation, trains over two pipeline stages, evaluates, and prints a sample. Downloads no data.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
run=runs/quickstart

if [ ! -e data/quickstart/dataset.json ]; then
    mkdir -p data
    python -c 'from pydoc_data.topics import topics; print("\n\n".join(topics.values()))' >data/quickstart.txt
    megachar corpus prepare data/quickstart.txt --output data/quickstart
fi
if [ ! -e $run/plots/loss.png ]; then
    resume=""
    [ ! -e $run/resolved.yaml ] || resume=--resume
    megachar launch quickstart data.path=data/quickstart $resume
else
    echo "$run is already trained; delete it to train it anew."
fi
megachar evaluate $run --split valid --stride 32
megachar generate $run --prompt "The for statement is used to" --characters 300 --temperature 0.7
cat <<TEXT

Loss curve:                      $run/plots/loss.png
Auxiliary losses by layer:       $run/plots/layers.png
More text:                       .venv/bin/megachar generate $run --prompt "An expression"
TensorBoard:                     .venv/bin/tensorboard --logdir $run/tensorboard
TEXT
