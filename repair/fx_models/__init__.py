"""Int8 models of torch.ao's FX graph mode in TorchScript files, trained through a float twin and written back."""
