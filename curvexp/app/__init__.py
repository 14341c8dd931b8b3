"""The application: command line, run folders, sweeps; everything that Hydra is part of."""
