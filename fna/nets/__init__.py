"""Networks as torch modules: plain ones, which training and export see as they are."""
