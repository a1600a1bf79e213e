"""The methods, one file each: BiLoRA, its controls, and the baselines."""
