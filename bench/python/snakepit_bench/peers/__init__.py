"""Other ways to call Python, each as small as its own documentation has it: what Snakepit is measured against."""
