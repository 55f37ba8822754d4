"""What ranks are forked with: importing this costs seconds of CPU time, once for all of them."""

import gc
import os
from importlib import import_module

from megachar.parallel.library import load_deepspeed

MODULES = (
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.ops.op_builder.all_ops",
    "deepspeed.runtime.superoffload.superoffload_stage3",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "matplotlib.pyplot",
    "torch.utils.tensorboard",
    "megachar.selftest.run",
    "megachar.training.loop",
)
"""What ranks import sooner or later."""

os.environ["DS_ACCELERATOR"] = "cpu"  # read at the import of deepspeed
load_deepspeed()
for name in MODULES:
    import_module(name)
gc.freeze()  # collections in ranks pass over what was imported, and leave its memory shared
