"""Where the answer is known: an enumerated token MDP, the environment, tabular learners."""
