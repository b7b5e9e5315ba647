"""Tables of the Sentence-BERT paper (arXiv 1908.10084), re-run on a small scale, beside the published figures."""
