"""Where other libraries take a finished network up: timm (and what builds on it), and the Hugging Face hub."""
