"""What ranks are forked with: importing this costs seconds of CPU time, once for all of them."""

import gc
import os

os.environ["DS_ACCELERATOR"] = "cpu"  # read at the import of deepspeed

import matplotlib.pyplot  # noqa: F401
import torch.utils.tensorboard  # noqa: F401

import megachar.selftest.run
import megachar.training.loop  # noqa: F401

gc.freeze()  # collections in ranks pass over what was imported, and leave its memory shared
