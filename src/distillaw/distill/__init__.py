"""What the student is trained towards: losses and teacher targets."""
