"""Several runs of one experiment that differ in some settings, started by one command."""
