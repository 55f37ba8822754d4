"""What holds for all tests."""

import signal

# A shell starts what runs in the background with SIGINT ignored, and every command of a test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
