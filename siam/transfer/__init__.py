"""What an encoder is worth for detection and instance segmentation (SimSiam Sec. 6.1, Table 5)."""
