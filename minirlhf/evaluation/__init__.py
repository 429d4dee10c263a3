"""Ask the models, measure what they say, and compare: report.json and its verdicts."""
