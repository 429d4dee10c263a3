"""A language model: tokenizer, GPT, chat format, batches, generation, fine-tuning and checkpoints."""
