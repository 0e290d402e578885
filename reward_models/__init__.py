"""What is good: functions that score text, images and video. Imports nothing else of this project."""
