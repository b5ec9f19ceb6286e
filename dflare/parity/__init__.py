"""The pre-flight: are both models shown real images as they want to see them?"""
