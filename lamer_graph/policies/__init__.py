"""What answers: a server (`openai`), a model in this process (`local`), any LangChain chat model (`chat`)."""
