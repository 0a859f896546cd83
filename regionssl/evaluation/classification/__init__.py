"""Image classification: neighbours, linear layers and support vector machines on frozen features; fine-tuning."""
