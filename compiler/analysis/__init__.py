"""What is measured on the program: frames, activations, similarity, adapters, cost."""
