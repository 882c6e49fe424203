"""What a run tells of itself: losses, speed, log files, the progress bar."""
