"""What every script needs around the algorithm: command line, machine, files and the training loop."""
