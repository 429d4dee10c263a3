"""Comparisons of two responses, the reward models and policies that are learnt from them."""
