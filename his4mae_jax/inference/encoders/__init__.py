"""Which encoder a run segments with: that of a checkpoint, or a frozen one in an ONNX file (`segment.encoder_file`)."""
