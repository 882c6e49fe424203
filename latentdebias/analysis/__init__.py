"""The figures of the two papers, computed for any trained model: a file each in `figures`."""
