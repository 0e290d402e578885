"""Business feedback: logs of clicks, conversions and sessions in, debiased rewards and preference pairs out. No
torch.
"""
