"""Transfer to object detection and instance segmentation (SimSiam Sec. 6.1, Table 5)."""
