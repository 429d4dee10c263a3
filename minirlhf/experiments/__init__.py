"""SFT against RL, and rewards optimised too far: what is run, measured and claimed."""
