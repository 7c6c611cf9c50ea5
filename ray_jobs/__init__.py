"""The Ray jobs of the batch inference backend: plan, hand-over, ASR, redaction, analysis, sink, report."""
