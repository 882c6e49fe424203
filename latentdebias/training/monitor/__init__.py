"""What a run tells of itself: losses, speed, log files, progress."""
