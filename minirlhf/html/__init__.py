"""The report as one page: plots as SVG, figures, and the page around them."""
