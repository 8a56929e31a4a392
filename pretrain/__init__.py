"""Self-supervised pretraining of speech encoders, and the training machinery that finetune shares."""
