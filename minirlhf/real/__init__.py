"""Runs on a real pretrained model, each one command."""
