"""Scores of texts and answers, their intervals, and tests of differences."""
