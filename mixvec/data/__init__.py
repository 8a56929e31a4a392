"""[train] What a source of audio holds, and which rank reads what when."""
