"""I-DARTS for Microsoft NNI: one softmax over all edges that enter a node, then the top-n edges of each node."""
