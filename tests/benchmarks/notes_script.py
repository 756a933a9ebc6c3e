"""The training loop of the notes, section 2-1-1, written by hand; `notes_loop` runs it.

python -m tests.benchmarks.notes_script ROOT EPOCHS WORKERS SEED

Images come from an ImageFolder and are standardized as in Litmus. Every step converts loss and predictions to Python
numbers, and each epoch ends with a validation and scikit-learn's scores.
"""

import sys

import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

# Of CIFAR-10's airplanes and birds.
MEAN = torch.tensor([0.509, 0.530, 0.538]).view(3, 1, 1)
STD = torch.tensor([0.230, 0.226, 0.246]).view(3, 1, 1)


def network() -> nn.Sequential:
    """18,090 parameters for images `[N, 3, 32, 32]` of two classes."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2),
        nn.Conv2d(16, 8, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 32), nn.Tanh(), nn.Linear(32, 2),
    )  # fmt: skip


def train(root: str, epochs: int, workers: int, seed: int) -> None:
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    training = DataLoader(ImageFolder(f"{root}/train", ToTensor()), 64, shuffle=True, num_workers=workers)
    validation = DataLoader(ImageFolder(f"{root}/val", ToTensor()), 64, num_workers=workers)
    model = network().to(device)
    mean, std = MEAN.to(device), STD.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for epoch in range(epochs):
        model.train()
        train_loss, train_true, train_predicted = 0.0, [], []
        for x, y in training:
            x, y = (x.to(device) - mean) / std, y.to(device)
            optimizer.zero_grad()
            logits = model(x)
            loss = criterion(logits, y)
            loss.backward()
            optimizer.step()
            train_loss += loss.item() / len(training)
            train_predicted += logits.argmax(1).detach().cpu().numpy().tolist()
            train_true += y.cpu().numpy().tolist()
        model.eval()
        val_loss, val_true, val_predicted = 0.0, [], []
        with torch.no_grad():
            for x, y in validation:
                x, y = (x.to(device) - mean) / std, y.to(device)
                logits = model(x)
                val_loss += criterion(logits, y).item() / len(validation)
                val_predicted += logits.argmax(1).cpu().numpy().tolist()
                val_true += y.cpu().numpy().tolist()
        scores = [
            score(true, predicted)
            for true, predicted in ((train_true, train_predicted), (val_true, val_predicted))
            for score in (lambda a, b: f1_score(a, b, average="macro"), accuracy_score)
        ]
        print("epoch", epoch + 1, train_loss, val_loss, *scores, flush=True)


if __name__ == "__main__":
    train(sys.argv[1], *map(int, sys.argv[2:]))
