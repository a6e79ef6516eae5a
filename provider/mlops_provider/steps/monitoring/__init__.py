"""Watch inputs and quality, decide whether to retrain."""
