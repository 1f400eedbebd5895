"""What `distillaw audit` finds of bugs put into a clean loss and a clean loop, and in the present releases of peers."""
