"""What a run is made of: its configuration's meaning, its records and model, what it decides and when it may go on."""
