"""The grant broker: lends a credential to one attempt of one step, and proves it dead."""
