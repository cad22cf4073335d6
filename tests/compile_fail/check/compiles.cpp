// EXPECT: never looked at
int main() {}
