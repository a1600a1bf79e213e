"""The adapter: singular values, layer, model, merging, export; BiLoRA as a PEFT method."""
