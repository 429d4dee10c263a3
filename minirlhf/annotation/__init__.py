"""People compare answers, and what their judgements say."""
