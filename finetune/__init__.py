"""Fine-tuning on labelled speech: recognition and spoken language understanding, one file per task."""
