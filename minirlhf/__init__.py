"""minirlhf: pretraining, SFT, reward models, PPO and their evaluation for a GPT, from scratch."""
