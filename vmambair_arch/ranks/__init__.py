"""The processes of one run: how they start, what they tell each other, and the signals that end them."""
