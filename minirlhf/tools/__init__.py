"""Programs beside the three scripts: `python -m minirlhf.tools.NAME`."""
