"""Reinforcement learning: rewards, losses, rollouts, the algorithms and their loop."""
