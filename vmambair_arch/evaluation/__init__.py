"""`vmambair evaluate`: restored images, or checkpoints, against the truth, beside the paper's figures."""
