"""Semantic segmentation: fully convolutional networks, and a linear probe of frozen features."""
