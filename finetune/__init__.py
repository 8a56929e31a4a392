"""Fine-tuning on labelled speech: recognition (asr) and utterance classification (intent)."""
